"""The HTTP server and its routes: health, metrics, webhooks, unsubscribe pages and the API for operators."""
