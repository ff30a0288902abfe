"""The text of the trigger functions, made from the declarations alone.

body          the text
fitting       rows put together, as many as fit into a payload
emission      the parts of a payload, and the calls that send it
expressions   SQL expressions over the rows of a statement
mark          the first line of a body, which marks it as ours
values        values of columns as JSON
filling       templates of several lines
quoting       names and strings as SQL text
"""
