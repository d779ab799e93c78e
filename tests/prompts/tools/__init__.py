"""Tests of how models write calls."""
