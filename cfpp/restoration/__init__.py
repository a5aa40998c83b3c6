"""The restorer that users call: faces and photographs in, restored ones out."""
