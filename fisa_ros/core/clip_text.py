"""What CLIP does to a text before it is tokenised (Radford et al., 2021); needs no torch."""

import html


def clean_clip_text(text: str) -> str:
    """Mend broken encodings, resolve HTML entities, join white space and lower the case."""
    # Here, for only CLIP's text encoders need it.
    import ftfy

    unescaped = html.unescape(html.unescape(ftfy.fix_text(text)))
    return ' '.join(unescaped.split()).lower()
