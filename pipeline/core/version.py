"""Version: the one place where attar's version is written."""

VERSION = "0.1.0"
