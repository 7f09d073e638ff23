"""The service `segment_image`: one image in, its maps and segments out."""

import logging

from fisa_ros.core.errors import FisaError
from fisa_ros.node import conversions
from fisa_ros.node.awaiting import Awaiting
from fisa_ros.node.frame_worker import FrameWorker
from fisa_ros.node.segment_parameters import SegmentParameters
from fisa_ros.node.throttle import Throttle
from fisa_ros.node.vocabulary_holder import VocabularyInUse
from fisa_ros.srv import SegmentImage

_log = logging.getLogger(__name__)
_REPEAT_S = 10.0


class SegmentImageService:
    """Answers in turn with the cameras, from the same thread and with the same model."""

    def __init__(self, worker: FrameWorker, awaiting: Awaiting) -> None:
        """Serve with a worker; `awaiting` lets the callback wait for it."""
        self._worker = worker
        self._awaiting = awaiting
        self._refusal_throttle = Throttle(_REPEAT_S)

    async def answer(self, request: SegmentImage.Request, response: SegmentImage.Response) -> SegmentImage.Response:
        """Fill the response, with the reason if the request cannot be met."""
        try:
            answer = self._worker.submit(lambda in_use, parameters: _segment(request, response, in_use, parameters))
            return await self._awaiting.result_of(answer)
        except FisaError as error:
            if self._refusal_throttle.is_due():
                _log.warning(f'segment_image refused: {error}')
            return SegmentImage.Response(message=str(error))


def _segment(
    request: SegmentImage.Request,
    response: SegmentImage.Response,
    in_use: VocabularyInUse,
    parameters: SegmentParameters,
) -> SegmentImage.Response:
    has_raw, has_compressed = bool(request.image.data), bool(request.compressed_image.data)
    if has_raw == has_compressed:
        raise FisaError(f'either image or compressed_image must hold data, {"both do" if has_raw else "neither does"}')
    msg = request.image if has_raw else request.compressed_image
    result = in_use.segmenter.segment(conversions.image_from_msg(msg), in_use.state, parameters.thresholds)
    response.mask = conversions.mask_to_msg(result, parameters.mask_encoding, msg.header)
    response.instances = conversions.image_to_msg(result.panoptic_map, 'mono16', msg.header)
    response.confidence = conversions.image_to_msg(result.confidence_map, 'mono8', msg.header)
    response.segments = conversions.segments_to_msg(result, msg.header)
    response.success = True
    return response
