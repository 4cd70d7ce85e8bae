"""Documents in Elasticsearch; `documents` is the adapter and says what the other files are."""
