"""The API for programs and operators, `/api/v1`, with an OpenAPI document made from the models that check it."""
