"""Runtime, power and energy of networks that nobody measured, learnt from a dataset of runs.

docs/Prediction.md says what is fitted, how it is scored and where it is bad. Fitting needs
scikit-learn; a saved model is read and evaluated with numpy alone.
"""
