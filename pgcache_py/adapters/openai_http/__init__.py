"""Between OpenAI's client and its HTTP client, where answers come from the cache."""
