"""What Weight accepts, reports and refuses."""

import gc
from functools import partial

import numpy as np
import pytest

from cutwork import _native

from .weights import DTYPES, ENCODINGS, make_weight, masked_arrays, sparse_values

Weight = _native.Weight


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_properties_and_round_trip(dtype, encoding):
    dense = sparse_values(np.random.default_rng(0), 37, 130, 0.3, dtype)
    scale = np.ones(37, np.float32) if dtype == "i8" else None
    weight = make_weight(dense, encoding, scale)
    assert (weight.rows, weight.cols, weight.encoding, weight.dtype) == (37, 130, encoding, dtype)
    stored = np.count_nonzero(dense) if encoding in ("dense", "bitmask") else masked_arrays(dense, encoding)[2][-1]
    assert weight.nonzeros == stored
    arrays = [dense] if encoding == "dense" else list(masked_arrays(dense, encoding))
    assert weight.nbytes == sum(a.nbytes for a in arrays) + (scale.nbytes if scale is not None else 0)
    out = weight.to_dense()
    assert out.dtype == dense.dtype
    np.testing.assert_array_equal(out, dense)


def test_the_zeros_of_int8_are_written_out():
    rng = np.random.default_rng(3)
    codes, scale = sparse_values(rng, 37, 130, 0.3, "i8"), rng.random(37).astype(np.float32)
    dense = make_weight(codes, "bitmask", scale).in_dense()
    assert (dense.encoding, dense.nbytes) == ("dense", codes.nbytes + scale.nbytes)
    np.testing.assert_array_equal(dense.to_dense(), codes)
    x = rng.standard_normal((3, 130)).astype(np.float32)
    np.testing.assert_array_equal(dense.matmul(x), make_weight(codes, "dense", scale).matmul(x))
    for other in (make_weight(codes, "slots", scale), make_weight(codes.astype(np.float32), "bitmask")):
        assert other.in_dense() is None


def test_many_small_copies_lie_apart():
    rng = np.random.default_rng(4)
    made = [sparse_values(rng, *shape, 0.3, "i8") for shape in ((37, 130), (1, 1), (513, 4096)) for _ in range(40)]
    copies = [make_weight(codes, "bitmask", np.ones(len(codes), np.float32)).in_dense() for codes in made]
    for codes, copy in zip(made, copies, strict=True):
        np.testing.assert_array_equal(copy.to_dense(), codes)


def test_arrays_outlive_their_names_and_are_not_copied():
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    weight = Weight.dense(values)
    values[0, 0] = 5
    del values
    gc.collect()
    assert weight.to_dense()[0, 0] == 5


@pytest.mark.parametrize("dtype", DTYPES)
def test_read_only_and_unaligned_memory(dtype):
    dense = sparse_values(np.random.default_rng(1), 9, 70, 0.5, dtype)
    scale = np.ones(9, np.float32) if dtype == "i8" else None

    def shifted(array):
        memory = np.zeros(array.nbytes + 1, np.uint8)
        memory[1:] = np.frombuffer(array.tobytes(), np.uint8)
        view = np.frombuffer(memory, array.dtype, array.size, offset=1).reshape(array.shape)
        view.flags.writeable = False
        return view

    x = np.random.default_rng(2).standard_normal((5, 70)).astype(np.float32)
    shifted_scale = shifted(scale) if scale is not None else None
    for there, here in (
        (Weight.dense(shifted(dense), shifted_scale), make_weight(dense, "dense", scale)),
        (
            Weight.masked("bitmask", 9, 70, *(shifted(a) for a in masked_arrays(dense)), shifted_scale),
            make_weight(dense, "bitmask", scale),
        ),
    ):
        np.testing.assert_array_equal(there.to_dense(), dense)
        np.testing.assert_array_equal(there.matmul(x), here.matmul(x))


def corrupt(**changes):
    """A valid [6, 70] int8 bitmask weight with some arguments replaced by functions of them."""
    dense = sparse_values(np.random.default_rng(3), 6, 70, 0.5, "i8")
    values, mask, offsets = masked_arrays(dense)
    arguments = dict(rows=6, cols=70, values=values, mask=mask, offsets=offsets, scale=np.ones(6, np.float32))
    for name, change in changes.items():
        arguments[name] = change(arguments[name])
    return arguments


def changed(index, value):
    def change(array):
        array = array.copy()
        array[index] = value
        return array

    return change


def test_the_uncorrupted_weight_is_accepted():
    weight = Weight.masked("bitmask", **corrupt())
    assert (weight.rows, weight.cols) == (corrupt()["rows"], corrupt()["cols"])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"rows": lambda _: 0}, "is empty"),
        ({"cols": lambda _: -1}, "is empty"),
        ({"cols": lambda _: 65537}, "more than 65536 columns"),
        ({"rows": lambda _: 2**62}, "does not fit in memory"),
        ({"rows": lambda _: 2**40}, "elements, expected"),
        ({"rows": lambda _: 9}, "mask has 16 elements, expected 24"),
        ({"rows": lambda _: 5}, "bits beyond the weight's shape"),
        ({"cols": lambda _: 66}, "bits beyond the weight's shape"),
        ({"mask": lambda m: m.reshape(-1)[:-1]}, "mask has 15 elements, expected 16"),
        ({"mask": changed((0, 0, 0), 0)}, "row group 0 ends at offset"),
        ({"mask": changed((1, 0, 3), 1)}, "bits beyond the weight's shape"),
        ({"mask": lambda m: m.astype(np.int64)}, "mask must be"),
        ({"mask": np.asfortranarray}, "C-contiguous"),
        ({"offsets": lambda o: o[:-1]}, "offsets has 2 elements, expected 3"),
        ({"offsets": lambda o: o + 1}, "offsets begin at 1, expected 0"),
        ({"offsets": changed(1, 2**63)}, "row group 0 ends at offset"),
        ({"offsets": changed(2, 0)}, "row group 1 ends at offset 0"),
        ({"values": lambda v: v[:-1]}, "nonzeros, but the mask has"),
        ({"values": lambda v: v[:63]}, "lack their 64 bytes of padding"),
        ({"values": lambda v: np.append(v, v)}, "nonzeros, but the mask has"),
        ({"values": lambda v: v.astype(np.float64)}, "values must be float32, uint16"),
        ({"values": lambda v: v[None]}, "values must be a 1-dimensional"),
        ({"values": lambda v: np.repeat(v, 2)[::2]}, "C-contiguous"),
        ({"values": changed(3, -128)}, "code -128"),
        ({"scale": lambda _: None}, "needs a scale"),
        ({"scale": lambda s: s[:-1]}, "scale has 5 elements, expected 6"),
        ({"scale": lambda s: s.astype(np.float64)}, "scale must be"),
        ({"scale": changed(2, np.nan)}, "scale of row 2 is not finite"),
    ],
)
def test_corrupt_bitmask_weights_are_refused(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        Weight.masked("bitmask", **corrupt(**changes))


@pytest.mark.parametrize(
    ("values", "scale", "sentence"),
    [
        (np.zeros((0, 4), np.float32), None, "is empty"),
        (np.zeros((1, 65537), np.int8), np.ones(1, np.float32), "more than 65536 columns"),
        (np.zeros(4, np.float32), None, "2-dimensional"),
        (np.zeros((4, 6), np.float32)[:, ::2], None, "C-contiguous"),
        (np.zeros((4, 6), np.float16), None, "values must be float32, uint16"),
        (np.zeros((4, 6), np.int8), None, "needs a scale"),
        (np.full((4, 6), -128, np.int8), np.ones(4, np.float32), "code -128"),
        (np.zeros((4, 6), np.float32), np.ones(4, np.float32), "takes no scale"),
    ],
)
def test_bad_dense_weights_are_refused(values, scale, sentence):
    with pytest.raises(ValueError, match=sentence):
        Weight.dense(values, scale)


def test_bad_inputs_of_matmul_are_refused():
    weight = Weight.dense(np.ones((3, 5), np.float32))
    with pytest.raises(ValueError, match="x has 4 columns, the weight 5"):
        weight.matmul(np.ones((2, 4), np.float32))
    with pytest.raises(ValueError, match="float32"):
        weight.matmul(np.ones((2, 5)))
    with pytest.raises(ValueError, match="threads must be"):
        weight.matmul(np.ones((2, 5), np.float32), threads=0)


@pytest.mark.parametrize("encoding", ENCODINGS[2:])
def test_values_and_bits_of_blocks_beyond_the_shape_are_refused(encoding):
    dense = np.ones((6, 70), np.float32)
    values, mask, offsets = masked_arrays(dense, encoding)
    make = partial(Weight.masked, encoding)
    assert make(6, 70, values, mask, offsets).nonzeros == offsets[-1] > dense.size or encoding == "bitmask"
    filled = values.copy()
    filled[: int(offsets[-1])] = 1
    with pytest.raises(ValueError, match="values beyond the weight's shape"):
        make(6, 70, filled, mask, offsets)
    mask = mask.copy()
    mask[-1, -1] = np.iinfo(mask.dtype).max
    with pytest.raises(ValueError, match="bits beyond the weight's shape"):
        make(6, 70, values, mask, offsets)
