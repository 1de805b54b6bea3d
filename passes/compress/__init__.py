"""Rewrites that make models smaller or cheaper at the price of small errors: nothing here runs unless asked for."""
