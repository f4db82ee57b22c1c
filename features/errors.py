"""What can go wrong while features are declared, fitted or applied.

FeatureError
├── DeclarationError   a field, expression or feature set that makes no sense
├── FitError           a table that the declared features cannot be fitted on
├── TableError         a table whose columns or types the encoder refuses
├── FeaturesNotFound   a name that no features of a store have, or several
└── FeaturesCorrupt    a features.json that is not what it says
"""


class FeatureError(Exception):
    """Base of everything this package raises on purpose."""


class DeclarationError(FeatureError, ValueError):
    """A field, expression or feature set that makes no sense."""


class FitError(FeatureError, ValueError):
    """A table that the declared features cannot be fitted on."""


class TableError(FeatureError, ValueError):
    """A table whose columns or types the encoder refuses."""


class FeaturesNotFound(FeatureError, LookupError):
    """A name that no features of a store have, or several."""


class FeaturesCorrupt(FeatureError, ValueError):
    """A features.json that is not what it says."""
