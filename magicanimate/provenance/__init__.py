"""Content credentials: results say, signed, what they are, and files are asked what they say.

The form is that of the C2PA (Coalition for Content Provenance and Authenticity, specification 2.x), written
and read by its own library, ``c2pa-python``.
"""
