"""For the site: links that leave docs/ become names of files of the repository."""

import re

OUTSIDE = re.compile(r"\[([^\]]+)\]\((?:\.\./|examples/)([^)]+)\)")


def on_page_markdown(markdown, **_):
    """A page's text, its links to other folders as `text (path)`."""
    return OUTSIDE.sub(lambda m: m[1] if m[2] in m[1] else f"{m[1]} (`{m[2]}`)", markdown)
