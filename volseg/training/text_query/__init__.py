"""Training of the text-query network from partial labels of many data sets, and from generated volumes."""
