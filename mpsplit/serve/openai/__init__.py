"""OpenAI's API: what may be asked, what it means, and how it is answered.

request_bodies   what may be asked, field by field
request_meaning  from a body to what the loop is asked
tool_calls       tool calls in an answer's text
answer_shapes    answers as OpenAI's clients expect them
event_streams    an answer as it is made, or as a whole
text_bodies      what may be asked of an encoder or a cross-encoder
text_answers     embeddings and scores as clients expect them
"""
