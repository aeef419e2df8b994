"""What every endpoint needs: the loop, names, limits, figures. Made once, when the server starts.

served_loop     what the server needs of the token loop
caller          who calls
client_texts    prefixes and sessions, by the names that clients give them
metrics         figures for Prometheus
health          what /health says
service         all of it in one value
taken_requests  between the loop's thread and asyncio
"""
