"""The local web page: what it does (`workbench`), and how it looks (`page`)."""
