"""Measuring tools: the demonstration, peers side by side."""
