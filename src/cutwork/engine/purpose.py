"""What a model is for, as its family and the files beside its weights say: to write text, or to make vectors or classes
of texts."""

from dataclasses import dataclass

from cutwork.architectures.architecture import Architecture
from cutwork.engine.classification.head import Head, read_head
from cutwork.engine.classification.question import Question, read_question
from cutwork.engine.embedding.description import Description, describe, read_activation
from cutwork.engine.tokenizer import longest_text
from cutwork.pack.reader import PackedModel


@dataclass(frozen=True)
class Purpose:
    """What is made of a model's hidden states.

    description, head: how vectors, and classes, are made of them, which then are a step's result; both None if the
    model writes text. question: what it is asked of a query and a document, if it is a language model that ranks.
    longest: tokens of a text that one that only reads looks at; None: as many as its context.
    """

    description: Description | None
    head: Head | None
    question: Question | None
    longest: int | None

    @property
    def writes(self) -> bool:
        """Whether the model writes text."""
        return not (self.description or self.head)


def purpose_of(packed: PackedModel, architecture: Architecture) -> Purpose:
    """The purpose of a packed model. Raises CutworkError for files beside it that are damaged or ask for what this
    engine does not do."""
    head, question = read_head(architecture, packed.config, packed.weights, read_activation(packed.path)), None
    if asked := read_question(packed.path, architecture, packed.weights):
        head, question = asked
    description = describe(packed.path, classifies=head is not None)
    if description is None and not (architecture.decoder or head):
        description = Description()
    longest = description.max_length if description else None
    if description or head:
        longest = longest or longest_text(packed.path)
    return Purpose(description, head, question, longest)
