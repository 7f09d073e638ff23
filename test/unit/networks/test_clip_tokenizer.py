from open_clip.tokenizer import SimpleTokenizer
import pytest

from fisa_ros.core.clip_text import clean_clip_text
from fisa_ros.networks.clip_tokenizer import clip_tokenizer

TEXTS = (
    'a cat', '', '   ', 'A Café crème', 'naïve façade', 'Ångström schön Ñ', 'e\u0301', 'ß ẞ', "ſ ſ'ſ",
    "“quotes” ‘single’ it’s it's IT'S", "don't we've they'll i'd i'm you're", 'ﬁre ﬂoor oﬃce', 'mÃ¼nchen',
    '&amp; &lt;b&gt; &amp;amp; &#233;', 'a  b\t c\n d', 'a\u00a0b\u200b c', '123 45.6 3/4" M8x20', '½ ² ①', '!!!???…—–',
    'кресло', 'Σίσυφος ΟΔΥΣΣΕΥΣ', 'İstanbul I ı', 'الكرسي', 'ﷺ', 'हिन्दी', 'ไทย เก้าอี้', '消火器 椅子', '한국어 의자',
    '😀👍🏽', '𝓒𝓱𝓪𝓲𝓻',
    '<start_of_text> hi <END_OF_TEXT>', '\x00 a', 'x' * 300, 'word ' * 200,
)  # fmt: skip


@pytest.mark.parametrize('context_length', [77, 8])
def test_token_for_token_as_open_clip(context_length):
    expected = SimpleTokenizer()(list(TEXTS), context_length)
    tokenizer = clip_tokenizer(context_length)
    for text, row in zip(TEXTS, expected.tolist(), strict=True):
        assert tokenizer.encode(clean_clip_text(text)).ids == row, text
