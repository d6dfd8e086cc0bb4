"""Published training sets, fetched, checked, mended and converted."""
