"""What happens to listings in MerRec, in the order of their numbers."""

EVENT_TYPES = ("item_view", "item_like", "item_add_to_cart_tap", "offer_make", "buy_start", "buy_comp")
BOUGHT = "buy_comp"
