"""`jaxgpt doctor`: is all here that a training needs, and does it work? Each check is a line with the way out."""
