"""The server around the API: connections in, answers out.

app               the application
common_endpoints  what every server answers
token_endpoints   what a decoder answers
text_endpoints    what an encoder or a cross-encoder answers
security          who may call
body_limits       bodies that arrive whole, soon and not too large
patience          connections that nobody works for end soon
page              the page at `/`
serving           a server from its first connection to its last
"""
