"""The cosmetics shop: customers with personas, found in what they write."""
