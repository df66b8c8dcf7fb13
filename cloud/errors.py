"""What a person can do something about."""


class CloudError(Exception):
    """One sentence: what is wrong, with both values, and the way out."""
