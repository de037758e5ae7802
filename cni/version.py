"""The version of Barewire, for the about text, the package and the bundle."""

VERSION = "0.1.0"
