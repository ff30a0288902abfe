"""The text of the trigger functions, made from the declarations alone.

body          the text
emission      the parts that send a payload
expressions   SQL expressions over the rows of a statement
mark          the first line of a body, which marks it as ours
quoting       names and strings as SQL text
"""
