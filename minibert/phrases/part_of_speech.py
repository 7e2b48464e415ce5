"""Part-of-speech tags of any text, by a tagger that train.py has trained on words with tags."""

from collections.abc import Sequence
from pathlib import Path

from minibert.data.batches import Split, make_windows
from minibert.data.documents import Document
from minibert.errors import check
from minibert.evaluation.tagger import by_document, predict
from minibert.hub import find_model
from minibert.phrases.candidates import is_noun
from minibert.text.tokenizer import Tokenizer
from minibert.training.trained import load_tagger


class PartOfSpeechTagger:
    """Tags the words of texts. `source`: folder or Hub id of a token classifier. Raises InputError
    if it is none, or if none of its labels is the tag of a noun."""

    def __init__(self, source: str | Path):
        folder = find_model(source)
        self.model = load_tagger(folder)
        config = self.model.config
        self.tokenizer = Tokenizer.load(folder, config.vocab_size)
        self.max_length = min(512, config.max_position_embeddings)

        check(
            any(map(is_noun, config.labels)),
            f"{source}: its labels ({', '.join(config.labels)}) have no tag of nouns, such as NN: "
            "name a run of train.py --labels given on words with Penn Treebank tags",
        )

    def tag(self, documents: Sequence[Document]) -> list[Document]:
        """The documents with the most probable tag of each word as its label."""
        windows = make_windows(documents, self.tokenizer, self.max_length)
        predictions = predict(self.model, Split([*documents], windows, []), shared=False)

        names = self.model.config.labels
        return [
            document._replace(labels=[names[i] for i in ids])
            for document, ids in zip(documents, by_document(predictions.labels[0], documents))
        ]
