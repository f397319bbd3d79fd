"""What the results say, one sentence each, made of the committed numbers: README, index and pages all quote these.

A claim names what it was measured on and the strongest thing that speaks against it.

    evidence.py    what zeros cost a model that is trained afterwards
    engine.py      speed, beside others and beside itself without zeros
    training.py    pruning, recovery, quantisation, budgets and drafts
    others.py      speech, translation and vectors
"""

from collections.abc import Callable

from benchmarks.claims import engine, evidence, others, training

CLAIMS: dict[str, tuple[Callable[[], str], str]] = {  # the sentence, and the page that shows it
    "decode": (engine.decode, "engines.md"),
    "dense int4": (engine.dense_int4, "engines.md"),
    "prefill": (engine.prefill, "engines.md"),
    "batches": (engine.batches, "engines.md"),
    "recovery": (training.recovery, "recovery.md"),
    "pruning": (training.pruning, "pruning.md"),
    "zeros kept": (training.zeros_kept, "zeros.md"),
    "bits": (training.bits, "bits.md"),
    "speech": (others.speech, "speech.md"),
    "zeros in speech": (others.zeros_in_speech, "speech.md"),
    "translation": (others.translation, "translation.md"),
    "encoders": (others.encoders, "encoders.md"),
    "sentences": (others.sentences, "embeddings.md"),
    "by budget": (training.by_budget, "compress.md"),
    "speculation": (training.speculation, "speculation.md"),
    "serving": (engine.serving, "serving.md"),
    "without VBMI2": (engine.without_vbmi2, "instruction-sets.md"),
    "against 4 bits": (engine.against_four_bits, "instruction-sets.md"),
    "amx": (engine.with_amx, "amx.md"),
    "evidence": (evidence.fine_tuned_zeros, "evidence.md"),
    "pareto": (evidence.against_its_own_four_bits, "evidence.md"),
    "squarehead": (evidence.squarehead, "evidence.md"),
    "by heart": (evidence.by_heart, "evidence.md"),
    "new numbers": (evidence.where_nothing_is_known_by_heart, "evidence.md"),
    "heads": (evidence.heads_in_four_bits, "evidence.md"),
    "as long": (evidence.as_long_as_the_teacher, "evidence.md"),
    "gsm8k": (evidence.on_gsm8k, "evidence.md"),
    "layers": (engine.layers, "layers.md"),
}
IN_README = ("zeros in speech", "layers")  # the others stand on their pages
