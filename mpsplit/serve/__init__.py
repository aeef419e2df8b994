"""What people talk to. Knows only the runtime's loops.

chat        `mpsplit chat`: a conversation on the terminal
api_errors  errors in OpenAI's shape
service/    what every endpoint needs
openai/     OpenAI's requests and answers
http/       the server around them
"""
