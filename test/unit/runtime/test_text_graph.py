import numpy as np

from fisa_ros.runtime.graph_files import open_graphs
from fisa_ros.runtime.onnxruntime_backend import OnnxRuntimeBackend
from fisa_ros.runtime.text_graph import TextGraph


def test_sentences_are_encoded_as_by_the_sibling(toy_manifest, toy_graphs):
    text = TextGraph(toy_graphs, open_graphs(toy_graphs, toy_manifest))
    sibling = OnnxRuntimeBackend(toy_manifest, toy_graphs)
    sentences = ['a chair', 'Stühle &amp; Tische', '消火器', 'word ' * 200] * 20
    found = text.encode(sentences)
    np.testing.assert_allclose(found, sibling.encode_text(sentences), atol=1e-5)
    assert found.dtype == np.float32
    assert text.encode([]).shape == (0, 384)
    text.close()
    sibling.close()
