"""Text and conversations as tokens.

answer_settings        how answers are to be, from whoever says so
conversation_messages  a conversation as a template wants it
template_renderer      chat templates, kept at arm's length
template_sandbox       the process in which they run
tokenizer              the package's tokenizer, and what is text for it
text                   text as tokens, and tokens as text that grows
"""
