"""Translation in one table of a few lines: of each engine the setting that is fastest."""

from typing import Any

SPARSE, DENSE, PEER = ENGINES = ("Cutwork sparse int8", "Cutwork dense int8", "CTranslate2")
SHAPES = {"trained": "a trained T5 of 7 million weights", "t5-small": "T5-small", "t5-base": "T5-base"}
BEAMS = {1: "greedy", 5: "five beams"}


def best(result: dict[str, Any], engine: str, shape: str, beams: int) -> dict[str, Any]:
    """The row of an engine's fastest setting."""
    rows = [row for row in result["rows"] if row["engine"].startswith(engine)]
    found = (row for row in rows if (row["shape"], row["beams"]) == (shape, beams))
    return max(found, key=lambda row: row["sentences_per_second"])


def table(result: dict[str, Any], before: dict[str, Any]) -> str:
    """Sentences a second by model and search; `before`: the run before, of which CTranslate2's are told."""
    lines = [
        "| int8, sentences/s | ours, 75% zeros | without | CTranslate2 | the run before | our BLEU | CTranslate2's |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for shape, named in SHAPES.items():
        for beams, search in BEAMS.items():
            rows = [best(result, engine, shape, beams) for engine in ENGINES]
            rows.append(best(before, PEER, shape, beams))
            speeds = [
                f"{speed:.{0 if speed >= 100 else 1}f}" for speed in (row["sentences_per_second"] for row in rows)
            ]
            scores = [row.get("bleu") for row in (rows[0], rows[2])]
            bleu = ["–" if score is None else f"{score:.1f}" for score in scores]
            lines.append(f"| {named}, {search} | {' | '.join([*speeds, *bleu])} |")
    return "\n".join(lines)
