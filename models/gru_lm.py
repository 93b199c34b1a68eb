"""The language model of `models.lstm_lm` with a GRU instead of an LSTM: `python -m models.gru_lm`."""

from models.lstm_lm import main

if __name__ == "__main__":
    main("gru")
