"""Tests. One package tree, so that files in different folders may share a name."""
