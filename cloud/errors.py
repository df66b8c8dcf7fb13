"""What a person can do something about."""


class CloudError(Exception):
    """One sentence: what is wrong, with both values, and the way out."""


class NoCapacityError(CloudError):
    """The cloud has none left just now; later it may."""


class DeletedError(CloudError):
    """Somebody does not want any more what was waited for."""
