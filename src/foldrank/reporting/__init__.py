"""What a bundle's JSON files say, for people: the model card (base install) and the HTML page (extra `report`).

Knows the keys of the JSON files. Knows nothing of graphs, weights or sessions. A figure that
is in no file is not shown.
"""
