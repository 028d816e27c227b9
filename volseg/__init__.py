"""volseg"""
