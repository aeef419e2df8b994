"""What every endpoint needs: the loop, names, limits, figures. Made once, when the server starts.

served_loop     what the server needs of the loop
caller          who calls
client_texts    prefixes and sessions, by the names that clients give them
metrics         figures for Prometheus
health          what /health says
any_service     all of it in one value, whatever the model answers
service         the same for a decoder
text_service    the same for an encoder or a cross-encoder
taken_requests  between the loop's thread and asyncio
taken_batch     the same for a batch of texts
"""
