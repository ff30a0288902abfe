"""An application that fails when it is imported."""

SETTINGS: dict[str, str] = {}
URL = SETTINGS["URL"]
