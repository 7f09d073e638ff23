"""CLIP's tokenizer for the `tokenizers` library, so that a robot needs neither open_clip nor torch."""

import gzip

from open_clip.tokenizer import bytes_to_unicode, default_bpe
from tokenizers import AddedToken, Regex, Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split
from tokenizers.processors import TemplateProcessing

_START, _END = '<start_of_text>', '<end_of_text>'
_VOCABULARY_SIZE = 49408
CLIP_PADDING = {'pad_id': 0, 'pad_token': '!'}
_WORD_END = '</w>'
# CLIP ignores case here, and the long s is a case of s.
_PIECES = "'[s\u017f]" r"|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def clip_tokenizer(context_length: int) -> Tokenizer:
    """Return the tokenizer of OpenAI's CLIP and of most open_clip models, for texts cleaned by `clean_clip_text`.

    Args:
        context_length: Number of tokens of each text, start and end among them; longer ones are cut, shorter ones are
            padded with 0.
    """
    with gzip.open(default_bpe(), 'rt', encoding='utf-8') as file:
        lines = file.read().split('\n')
    letters = list(bytes_to_unicode().values())
    merges = [(line.split()[0], line.split()[1]) for line in lines[1 : _VOCABULARY_SIZE - 2 * len(letters) - 2 + 1]]
    tokens = [*letters, *(letter + _WORD_END for letter in letters), *(first + second for first, second in merges)]
    vocabulary = {token: index for index, token in enumerate([*tokens, _START, _END])}
    tokenizer = Tokenizer(BPE(vocabulary, merges, end_of_word_suffix=_WORD_END))
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in (_START, _END)])
    tokenizer.pre_tokenizer = Sequence(
        [Split(Regex(_PIECES), behavior='removed', invert=True), ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.post_processor = TemplateProcessing(
        single=f'{_START} $A {_END}',
        special_tokens=[(token, vocabulary[token]) for token in (_START, _END)],
    )
    tokenizer.enable_truncation(context_length)
    tokenizer.enable_padding(length=context_length, **CLIP_PADDING)
    return tokenizer
