"""XLM-RoBERTa: RoBERTa with another vocabulary (arXiv 1911.02116)."""

from dataclasses import replace

from cutwork.architectures import roberta

ARCHITECTURE = replace(
    roberta.ARCHITECTURE,
    model_type="xlm-roberta",
    models="XLM-R, multilingual E5, BGE M3 (its dense vectors) and reranker v2 M3, Snowflake Arctic Embed L v2.0",
    source="arXiv 1911.02116",
)
