"""LISTEN and NOTIFY: a source whose events wait for nobody."""
