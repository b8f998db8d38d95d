"""Endpoints: parse, call, encode. No route imports another."""
