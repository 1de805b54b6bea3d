"""Tests of operators of one's own, functions of the host, plug-ins."""
