import pytest

from cutwork.store.block_names import in_block, of_any_block, place


@pytest.mark.parametrize(
    ("name", "common", "where"),
    [
        ("model.layers.13.mlp.up_proj.weight", "model.layers.*.mlp.up_proj.weight", (13, "mlp.up_proj.weight")),
        ("h.0.attn.c_attn", "h.*.attn.c_attn", (0, "attn.c_attn")),
        ("decoder.block.5.layer.1.SelfAttention.q", "decoder.block.*.layer.*.SelfAttention.q",
         (5, "layer.1.SelfAttention.q")),
        ("a.1.2.b", "a.*.*.b", (1, "2.b")),
    ],
)  # fmt: skip
def test_what_is_in_a_block(name, common, where):
    assert in_block(name) and of_any_block(name) == common and place(name) == where


@pytest.mark.parametrize("name", ["lm_head", "model.norm.weight", "model.layers2.weight", "wte.weight"])
def test_what_is_in_none(name):
    assert not in_block(name) and of_any_block(name) == name and place(name) == (0, name)
