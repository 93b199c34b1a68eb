"""The language model of `models.lstm_lm` with a RNN instead of an LSTM: `python -m models.rnn_lm`."""

from models.lstm_lm import main

if __name__ == "__main__":
    main("rnn")
