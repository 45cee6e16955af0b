"""HTML files that load nothing, neither from other files nor from the network. Torch-free."""

DOCUMENT = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; {more}">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}</body>
</html>
"""  # noqa: E501


def html_document(title: str, style: str, body: str, *, more: str) -> str:
    """A file with a title and a body, both escaped. more: what its policy allows beside styles and images in it."""
    return DOCUMENT.format(title=title, style=style, body=body, more=more)
