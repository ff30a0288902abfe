"""Payloads, which are untrusted bytes, to the values of events, and the signals they are for."""
