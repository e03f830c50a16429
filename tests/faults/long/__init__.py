"""The long form of the tests of faults: a whole installation, faults by chance, and clients that check every answer.

`make faults ARGS="--seed 7 --minutes 3"`. The tests beside it take one fault each and say exactly what happens; here
they come in an order that nobody thought of.
"""
