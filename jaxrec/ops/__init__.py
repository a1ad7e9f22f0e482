"""Operations on arrays alone, which know nothing of models and data sets."""
