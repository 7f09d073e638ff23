"""The text graph on ONNX Runtime, for back-ends that run the other graphs elsewhere."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fisa_ros.core.clip_text import clean_clip_text
from fisa_ros.core.errors import GraphsError
from fisa_ros.runtime.graph_files import TEXT_FILE, TEXT_OUTPUTS, TOKENIZER_FILE, GraphsDescription

_SENTENCES_PER_CALL = 64


class TextGraph:
    """Sentences to embeddings, on one thread: words change seldom, and the robot has other work.

    Args:
        folder: Exported graphs that `open_graphs` has checked.
        description: What they are.

    Raises:
        GraphsError: ONNX Runtime cannot load the graph.
    """

    def __init__(self, folder: Path, description: GraphsDescription) -> None:
        import onnxruntime
        from tokenizers import Tokenizer

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        path = folder / TEXT_FILE
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])
        except Exception as error:
            # ONNX Runtime raises classes of its extension module, without a common base.
            raise GraphsError(f'{path} cannot be loaded by ONNX Runtime: {error}') from error
        # A causal encoder needs no mask, and the exporter drops what is not needed.
        self._inputs = [entry.name for entry in self._session.get_inputs()]
        self._tokenizer = Tokenizer.from_file(str(folder / TOKENIZER_FILE))
        self._is_cleaned = description.is_text_cleaned
        self._dim = description.embedding_dim

    def encode(self, sentences: Sequence[str]) -> NDArray[np.float32]:
        """See `Backend.encode_text`."""
        rows = [np.zeros((0, self._dim), np.float32)]
        for start in range(0, len(sentences), _SENTENCES_PER_CALL):
            batch = list(sentences[start : start + _SENTENCES_PER_CALL])
            encoded = self._tokenizer.encode_batch(list(map(clean_clip_text, batch)) if self._is_cleaned else batch)
            inputs = {
                'token_ids': np.array([entry.ids for entry in encoded], np.int64),
                'attention_mask': np.array([entry.attention_mask for entry in encoded], np.int64),
            }
            rows += self._session.run(TEXT_OUTPUTS, {name: inputs[name] for name in self._inputs})
        return np.concatenate(rows)

    def close(self) -> None:
        """Free the session."""
        del self._session
